"""Source of a process that publishes in copies of a folder, each killed at another call of the system."""

from __future__ import annotations

#: Gives ``kill_in_copies(folder, publish, names)``: the i-th copy's process is killed before its i-th call of those
#: functions of ``os``, until one comes to its end.
KILL_IN_COPIES = """
import os, shutil, signal, sys

def dying(call, left):
    def count(*arguments, **named):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return count

def kill_in_copies(folder, publish, names):
    for calls in range(100):
        copy = folder.with_name(f"killed-{calls:02}")
        shutil.copytree(folder, copy)
        child = os.fork()
        if child == 0:
            left = [calls]
            for name in names:
                setattr(os, name, dying(getattr(os, name), left))
            publish(copy)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
"""
