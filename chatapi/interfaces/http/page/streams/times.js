/** Times and lengths of time in words. */

import { language, t } from '../texts.js';

const moments = new Intl.DateTimeFormat(language, { dateStyle: 'medium', timeStyle: 'medium' });
const clocks = new Intl.DateTimeFormat(language, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit' });

/** Date and time of seconds since 1970, in the zone of the browser. */
export function moment(seconds) {
  return moments.format(new Date(seconds * 1000));
}

/** The same, shorter. */
export function shortMoment(seconds) {
  return clocks.format(new Date(seconds * 1000));
}

/** A length of time in its largest unit. */
export function length(seconds) {
  if (seconds < 90) return t('streams.seconds', Math.max(0, Math.round(seconds)));
  if (seconds < 5400) return t('streams.minutes', Math.round(seconds / 60));
  return t('streams.hours', Math.round(seconds / 3600));
}
