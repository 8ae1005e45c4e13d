"""Interfaces of the appliance: HTTP, Wyoming and the audio device. Each translates events and holds no turn logic."""
