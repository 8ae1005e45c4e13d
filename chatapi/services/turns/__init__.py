"""One turn of a conversation, from the question to the end of the answer."""
