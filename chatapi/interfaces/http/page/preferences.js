/** Preferences stored on this device, or until a reload when storage is forbidden. */

const PREFIX = 'chatapi.';
const fallback = new Map();

/** localStorage or sessionStorage; null when the browser forbids it. */
function store(name) {
  try {
    return window[name];
  } catch {
    return null;
  }
}

function read(name, where = 'localStorage') {
  return store(where)?.getItem(PREFIX + name) ?? fallback.get(where + name) ?? '';
}

function write(name, value, where = 'localStorage') {
  fallback.set(where + name, value);
  try {
    if (value) store(where)?.setItem(PREFIX + name, value);
    else store(where)?.removeItem(PREFIX + name);
  } catch {
    // Storage is full or forbidden: the value lasts until the page is reloaded.
  }
}

export const preferences = {
  get conversation() { return read('conversation'); },
  set conversation(id) { write('conversation', id); },

  get voice() { return read('voice'); },
  set voice(name) { write('voice', name); },

  get language() { return read('language'); },
  set language(code) { write('language', code); },

  /** Code of the language of the page; '': that of the browser. */
  get pageLanguage() { return read('page-language'); },
  set pageLanguage(code) { write('page-language', code); },

  get speak() { return read('speak') !== 'off'; },
  set speak(on) { write('speak', on ? 'on' : 'off'); },

  /** The options of transcriptions, as JSON. */
  get transcription() { return read('transcription'); },
  set transcription(json) { write('transcription', json); },

  /** The unfinished uploads, as JSON. */
  get uploads() { return read('uploads'); },
  set uploads(json) { write('uploads', json); },

  /** Speed of playback; 1 is that of the recording. */
  get speed() { return Number(read('speed')) || 1; },
  set speed(factor) { write('speed', String(factor)); },

  get key() { return read('key', 'sessionStorage') || read('key'); },
  get keyIsRemembered() { return read('key') !== ''; },

  /** Stores the API key, on this device or until the tab is closed; '' removes it. */
  keepKey(key, remember) {
    write('key', remember ? key : '');
    write('key', remember ? '' : key, 'sessionStorage');
  },
};
