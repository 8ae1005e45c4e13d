"""The operating system and the board: processes, memory, files, the service manager, Jetson hardware."""
