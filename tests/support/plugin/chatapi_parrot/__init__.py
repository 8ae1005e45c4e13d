"""A plug-in of chatapi: a language model that repeats what it is told, and a role that measures loudness."""
