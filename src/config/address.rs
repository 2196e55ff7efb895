//! The address where a server and its clients meet without settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Default address of the server, 127.0.0.1:50051: `serve` listens here, and clients connect here.
pub(crate) const ADDRESS_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50_051);
