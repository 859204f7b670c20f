-- The clock by which everything here is judged.
-- RETURNS  now ms
--@use time
return now
