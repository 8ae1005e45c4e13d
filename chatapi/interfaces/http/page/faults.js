/** Faults, and their messages for users: what happened and what to do. */

import { find, t } from './texts.js';

/** An error that the page shows to the user. */
export class Fault extends Error {
  /**
   * @param {string} code  the server's, or one of the page's own (see `faults` of the dictionaries)
   * @param {{detail?: string, status?: number, retryAfter?: number|null, requestId?: string}} [known]
   */
  constructor(code, { detail = '', status = 0, retryAfter = null, requestId = '' } = {}) {
    super(detail || code);
    this.code = code;
    this.detail = detail;
    this.status = status;
    /** Delay before a retry, in seconds; null when a retry alone does not help. */
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }

  /** From the members of an `application/problem+json`. */
  static fromProblem(problem, retryAfter = null) {
    return new Fault(String(problem.code ?? 'error'), {
      detail: String(problem.detail ?? problem.title ?? ''),
      status: Number(problem.status ?? 0),
      retryAfter,
      requestId: String(problem.request_id ?? ''),
    });
  }

  /** Any thrown value, as a Fault. */
  static from(error) {
    if (error instanceof Fault) return error;
    // Browsers throw a plain TypeError when a server cannot be reached.
    if (error instanceof TypeError) return new Fault('unreachable', { detail: error.message });
    return new Fault('page_fault', { detail: String(error?.message ?? error) });
  }
}

/**
 * The message of a fault, in the language of the page; the server's own words, which are English, are its small print.
 * @param {Fault} fault
 * @returns {{title: string, advice: string, small: string}}
 */
export function messageOf(fault) {
  const [title, advice] = find(`faults.${fault.code}`) ?? unlisted(fault);
  const reference = fault.status >= 500 && fault.requestId ? t('fault.reference', fault.requestId) : '';
  const detail = fault.status > 0 && fault.detail ? t('fault.said', fault.detail) : '';
  return { title, advice, small: [detail, reference].filter(Boolean).join(' · ') };
}

/**
 * Why something failed, from the server's error code and message, as one sentence.
 * @param {{code: string, message: string}} failure
 * @param {boolean} [advised]  whether it says what helps too
 */
export function reasonOf({ code, message }, advised = false) {
  const [title, advice] = find(`faults.${code}`) ?? [t('fault.said', message), ''];
  return advised && advice ? `${title}: ${advice}` : title;
}

function unlisted(fault) {
  if (fault.status === 503) return t('fault.unavailable');
  if (fault.status >= 500) return t('fault.failed');
  return t('fault.rejected');
}
