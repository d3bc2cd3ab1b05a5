"""What a worker's threads share: the campaigns it serves, the jobs it holds, and how it shares its slots.

::

    WorkerState (one lock) ──▶ ServedCampaigns ──▶ ServedCampaign ──▶ HeldJobs, Loads
            │
            └──▶ fair_shares (a pure function): how many jobs each campaign may ask for

Nothing here talks to the server. Begin with `worker_state`.
"""
