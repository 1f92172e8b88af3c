// The package `machnet`, for `import`.

import machnet from './index.js';

export const {
  Channel,
  Flow,
  FlowStream,
  Listener,
  Loan,
  MachnetError,
  Message,
  TimeoutError,
  attach,
  errorCodes,
  version,
} = machnet;
export default machnet;
