/** The texts of the drawer in German: the section `conversations` of the dictionary. */

export default {
  title: 'Gespräche',
  open: 'Gespräche',
  search: 'Gespräche durchsuchen',
  none: 'Es gibt noch keine Gespräche.',
  none_found: 'Kein Gespräch enthält diesen Text.',
  untitled: 'Gespräch ohne Text',
  exchanges: (count) => (count === 1 ? '1 Frage' : `${count} Fragen`),
  more: 'Mehr anzeigen',
  more_of: (name) => `Mehr zu ${name}`,
  rename: 'Umbenennen',
  new_title: 'Neuer Titel',
  export_markdown: 'Als Markdown speichern',
  export_json: 'Als JSON speichern',
  delete: 'Löschen',
  you: 'Sie',
  box: 'Antwort',
};
