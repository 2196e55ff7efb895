//! How many connections there are, and that one address does not have all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::security::callers::network;

/// An address may have so many times what is free: alone it leaves a fifth to others (as with lines of the queue).
const SHARE_OF_FREE: usize = 4;

/// Places for connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places {
    taken: Arc<Mutex<Taken>>,
    max: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// A place that is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    address: IpAddr,
}

impl Place {
    /// Where the connection comes from.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        Self { taken: Arc::default(), max }
    }

    /// A place, if there is one for this address.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.max.saturating_sub(taken.all);
        let own = taken.by_network.get(&network(address)).copied().unwrap_or(0);
        if free == 0 || own >= free * SHARE_OF_FREE {
            return None;
        }
        taken.all += 1;
        *taken.by_network.entry(network(address)).or_default() += 1;
        drop(taken);
        Some(Place { places: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        let network = network(self.address);
        if let Some(own) = taken.by_network.get_mut(&network) {
            *own -= 1;
            if *own == 0 {
                taken.by_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn one_address_leaves_places_for_others() {
        let places = Places::new(100);
        let own: Vec<Place> = std::iter::from_fn(|| places.take(address(1))).collect();
        assert_eq!(own.len(), 80);
        let others: Vec<Place> = (2..200).filter_map(|last| places.take(address(last))).collect();
        assert_eq!(others.len(), 20);
        drop((own, others));
        let taken = places.taken.lock().expect("sound");
        assert_eq!((taken.all, taken.by_network.len()), (0, 0));
    }

    #[test]
    fn a_single_place_can_be_taken() {
        let places = Places::new(1);
        let place = places.take(address(1)).expect("free");
        assert!(places.take(address(2)).is_none());
        drop(place);
        places.take(address(2)).expect("free again");
    }
}
