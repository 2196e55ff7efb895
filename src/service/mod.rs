//! The use cases, free of transport.
