"""The local supervisor: one command as several processes of this machine, the ranks, that begin and end together.

The parent calls `supervise.supervise`; a rank calls `member.join`, which imports nothing that the parent alone needs.
Neither knows TensorFlow or jobs.
"""
