"""The operating system and the board: processes, memory, files, systemd and Jetson hardware."""
