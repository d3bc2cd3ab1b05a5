"""The protocol that drivers and workers share: keys, a script for each move, and what is read of a campaign.

Begin with `commands`: one method for each script. `keys` names all that is on the server.
"""
