//! Every folder's own `Settings`, composed; default < file < env < flag; unknown keys refused.
