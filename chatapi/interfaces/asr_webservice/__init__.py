"""The API of whisper-asr-webservice, for programs that transcribe with nothing else: Bazarr, Speakr and others."""
