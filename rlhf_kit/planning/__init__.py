"""What a profile needs before anything starts: parameters, memory, hours, disk, and a source for every value."""
