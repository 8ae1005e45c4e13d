/** Making elements; text only ever goes in as text. */

const SVG = 'http://www.w3.org/2000/svg';

/**
 * @param {string} tag
 * @param {Object<string, string>} [attributes]
 * @param {...(Node|string)} children
 */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in the SVG namespace. */
export function drawing(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** One of the page's icons, for the eye alone. They stand in index.html: a box that is gone gives no files. */
export function icon(name) {
  return drawing('svg', { class: 'icon', 'aria-hidden': 'true' }, drawing('use', { href: `#icon-${name}` }));
}

/** Change which icon an element shows. */
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

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
