"""The Wyoming protocol, with which Home Assistant and others use voice services, over TCP or a Unix socket.

The protocol: https://github.com/OHF-Voice/wyoming. This implementation follows its version 1.10.
"""
