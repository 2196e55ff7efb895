//! The command line: clients of the same gRPC API, one file a command.
