"""The published interface: its names and arguments, mapped onto the rooms above. No logic of its own."""
