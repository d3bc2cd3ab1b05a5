-- How many values go into one command: unpack holds fewer than 8,000. Even, so that pairs stay together.
local CHUNK = 4000
