/** What the page remembers on this device. Where storage is forbidden, until it is reloaded. */

const PREFIX = 'chatapi.';
const forgotten = new Map();

/** localStorage or sessionStorage; null where the browser forbids it. */
function store(name) {
  try {
    return window[name];
  } catch {
    return null;
  }
}

function read(name, where = 'localStorage') {
  return store(where)?.getItem(PREFIX + name) ?? forgotten.get(where + name) ?? '';
}

function write(name, value, where = 'localStorage') {
  forgotten.set(where + name, value);
  try {
    if (value) store(where)?.setItem(PREFIX + name, value);
    else store(where)?.removeItem(PREFIX + name);
  } catch {
    // A full or forbidden store: the value still holds until the page is reloaded.
  }
}

export const preferences = {
  get conversation() { return read('conversation'); },
  set conversation(id) { write('conversation', id); },

  get voice() { return read('voice'); },
  set voice(name) { write('voice', name); },

  get language() { return read('language'); },
  set language(code) { write('language', code); },

  get speak() { return read('speak') !== 'off'; },
  set speak(on) { write('speak', on ? 'on' : 'off'); },

  get key() { return read('key', 'sessionStorage') || read('key'); },
  get keyIsRemembered() { return read('key') !== ''; },

  /** Keep the API key, on this device or until the tab is closed; '' forgets it. */
  keepKey(key, remember) {
    write('key', remember ? key : '');
    write('key', remember ? '' : key, 'sessionStorage');
  },
};
