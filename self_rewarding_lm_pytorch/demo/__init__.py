"""The small world that `demo` trains in, on a CPU, in minutes."""
