"""What a worker's threads share: the campaigns it serves, the jobs it holds, and how it shares its slots.

::

    WorkerState (one lock) ──▶ ServedCampaigns ──▶ ServedCampaign ──▶ HeldJobs, Loads
            │
            └──▶ fair_share (a pure function): how many jobs one campaign may ask for

Nothing here talks to the server. Begin with `worker_state`.
"""
