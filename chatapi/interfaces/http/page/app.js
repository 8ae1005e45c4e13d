/** The page: translates its texts and starts the frame. */

import { Api } from './api.js';
import { Frame } from './frame.js';
import { preferences } from './preferences.js';
import { translate } from './texts.js';
import { VIEWS } from './views.js';

translate(document);
await new Frame(new Api(() => preferences.key), VIEWS).start();
