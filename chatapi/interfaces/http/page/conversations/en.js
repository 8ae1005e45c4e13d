/** The texts of the drawer in English: the section `conversations` of the dictionary. */

export default {
  title: 'Conversations',
  open: 'Conversations',
  search: 'Search conversations',
  none: 'There are no conversations yet.',
  none_found: 'No conversation has this text.',
  untitled: 'Conversation without text',
  exchanges: (count) => (count === 1 ? '1 question' : `${count} questions`),
  more: 'Show more',
  more_of: (name) => `More for ${name}`,
  rename: 'Rename',
  new_title: 'New title',
  export_markdown: 'Save as Markdown',
  export_json: 'Save as JSON',
  delete: 'Delete',
  you: 'You',
  box: 'Answer',
};
