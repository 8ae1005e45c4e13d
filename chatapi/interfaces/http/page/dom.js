/** Creates elements; text is only ever inserted as text. */

const SVG = 'http://www.w3.org/2000/svg';

/**
 * @param {string} tag
 * @param {Object<string, string>} [attributes]
 * @param {...(Node|string)} children
 */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** As `element`, in the SVG namespace. */
export function drawing(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A decorative icon. The icons are part of index.html, so that they show when the box is unreachable. */
export function icon(name) {
  return drawing('svg', { class: 'icon', 'aria-hidden': 'true' }, drawing('use', { href: `#icon-${name}` }));
}

/** Changes the icon of an element. */
export function showIcon(holder, name) {
  holder.querySelector('use').setAttribute('href', `#icon-${name}`);
}

/**
 * @param {string} words
 * @param {() => void} pressed
 */
export function button(words, pressed, attributes = {}) {
  const made = element('button', { type: 'button', ...attributes }, words);
  made.addEventListener('click', pressed);
  return made;
}

/** The attributes that name a control whose visible text is an abbreviation, which is part of the name, and its tooltip. */
export function named(visible, words) {
  return { 'aria-label': `${visible}, ${words}`, title: words };
}

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Loads a style sheet of the page, once; `path` is that below `page/`. Resolves when it is there, or cannot be had. */
export function loadStyle(path) {
  const href = new URL(path, import.meta.url).href;
  const known = [...document.styleSheets].some((sheet) => sheet.href === href);
  if (known) return Promise.resolve();
  return new Promise((resolve) => {
    const link = element('link', { rel: 'stylesheet', href });
    link.onload = link.onerror = resolve;
    document.head.append(link);
  });
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
