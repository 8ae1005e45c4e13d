"""The HTTP interface: `/completion`, OpenAI's APIs, the web page, and operation routes."""
