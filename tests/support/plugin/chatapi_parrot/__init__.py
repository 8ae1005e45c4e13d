"""A plug-in of chatapi: a language model that repeats the user's message, and a role that measures loudness."""
