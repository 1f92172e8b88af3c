package machnet

// Tries is how often the pump tried for calls that wait.
func (ch *Channel) Tries() uint64 { return ch.pump.tries.Load() }

// Waiting is how many calls wait for the pump.
func (ch *Channel) Waiting() int { return int(ch.pump.waiting.Load()) }
