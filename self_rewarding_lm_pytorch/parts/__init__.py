"""The parts of a run alone, files in and files out: sampling, judging, pairing, looking, talking."""
