"""Wyoming, by which Home Assistant and others use voice services, over TCP or a Unix socket.

It is described at https://github.com/OHF-Voice/wyoming; what is written here follows its version 1.10.
"""
