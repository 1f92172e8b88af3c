#!/usr/bin/env python3
"""Prints podman's own seccomp profile with one rule changed: bpf(2) is for those who have CAP_BPF, too.

    container/seccomp-bpf.py [PROFILE] >seccomp-bpf.json

The profile of Debian 12 knows only CAP_SYS_ADMIN, which is far more than the driver `xdp` needs. Newer ones have the rule.
"""

import json
import sys

profile = json.load(open(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/containers/seccomp.json"))
for rule in profile["syscalls"]:
    rule["names"] = [name for name in rule["names"] if name != "bpf"]
profile["syscalls"].append({"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}})
json.dump(profile, sys.stdout, indent=1)
