"""Asks an echo server a thousand times: python3 client.py ADDRESS."""

import sys
import time

import machnet

ROUNDS = 1000


def main() -> None:
    """Measures round trips, one message at a time."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    times = []
    with machnet.attach() as channel, channel.connect(sys.argv[1]) as flow:
        for number in range(ROUNDS):
            question = b"message %d" % number
            began = time.perf_counter_ns()
            flow.send(question)
            answer = flow.recv(timeout=10.0)
            times.append(time.perf_counter_ns() - began)
            if answer != question:
                sys.exit(f"sent {question!r} and got {bytes(answer)!r}")
    times.sort()
    print(f"{ROUNDS} messages echoed; half of the answers came within {times[ROUNDS // 2] / 1000:.1f} us")


if __name__ == "__main__":
    main()
