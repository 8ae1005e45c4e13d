"""Speech synthesis of texts and text streams."""
