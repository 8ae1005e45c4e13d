"""The microphone and the speaker of the box itself: devices that come back, without echo, and short sounds."""
