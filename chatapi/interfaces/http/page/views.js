/** The views of the page, in the order of the navigation. */

/**
 * @typedef {object} View  what the module of a view exports
 * @property {string} title  heading of the view, and title of the document
 * @property {(root: HTMLElement, frame: import('./frame.js').Mount) => void} mount  shows it
 * @property {() => void} unmount  called before another view is shown
 */

/**
 * `path` is the first part of the route, and `navigation.PATH` the text of its link; `load` imports its module.
 * @type {{path: string, icon: string, load: () => Promise<View>}[]}
 */
export const VIEWS = [
  { path: 'talk', icon: 'talk', load: () => import('./talk-view.js') },
  { path: 'transcribe', icon: 'transcribe', load: () => import('./transcribe/view.js') },
  { path: 'captions', icon: 'captions', load: () => import('./captions/view.js') },
  { path: 'streams', icon: 'streams', load: () => import('./streams/view.js') },
  { path: 'voices', icon: 'voices', load: () => import('./voices/view.js') },
  { path: 'commands', icon: 'commands', load: () => import('./commands/view.js') },
];
