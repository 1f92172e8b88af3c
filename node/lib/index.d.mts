/** The declarations of `machnet`, for `import`. @packageDocumentation */

export * from './index.js';
import * as machnet from './index.js';
/** The whole package, as `require` gives it. */
export default machnet;
