//! Composition root: settings to parts, start and stop order.
