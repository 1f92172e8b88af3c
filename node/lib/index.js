'use strict';
// The package `machnet`, for `require`.

const { Channel, attach } = require('./channel.js');
const { MachnetError, TimeoutError, errorCodes } = require('./errors.js');
const { Flow } = require('./flow.js');
const { Listener } = require('./listener.js');
const { Loan, Message } = require('./message.js');
const { FlowStream } = require('./stream.js');
const { version } = require('../package.json');

module.exports = { Channel, Flow, FlowStream, Listener, Loan, MachnetError, Message, TimeoutError, attach, errorCodes, version };
