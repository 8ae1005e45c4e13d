"""The local microphone and speaker: devices that are reopened after a loss, echo cancellation, and chimes."""
