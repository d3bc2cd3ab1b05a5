-- Look at a campaign at one moment, as a driver without a run function opens it. Changes nothing.
-- Reply: as that of open with the status "opened"; nothing when there is no such campaign
-- include standing
return standing('opened') or {}
