"""Answers every message with itself: python3 server.py [ADDRESS]."""

import sys
import threading

import machnet


def serve(flow: machnet.Flow) -> None:
    """Echoes one flow until its peer closes."""
    try:
        with flow:
            for message in flow:
                flow.send(message)
    except machnet.errors.Reset as error:
        print(f"{flow.peer}: {error}", file=sys.stderr)


def main() -> None:
    """Accepts flows until Ctrl-C."""
    address = sys.argv[1] if len(sys.argv) > 1 else "0.0.0.0:888"
    with machnet.attach() as channel, channel.listen(address) as listener:
        host, port = listener.address
        print(f"listening on {host}:{port}", flush=True)
        for flow in listener:
            threading.Thread(target=serve, args=(flow,), daemon=True).start()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
