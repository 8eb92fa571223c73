//! Round trips, the corpus of stored bytes, and what is refused with which words.

#[cfg(test)]
mod api;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod mask;
#[cfg(test)]
mod page;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod session;
#[cfg(test)]
mod status;
#[cfg(test)]
mod store;
#[cfg(test)]
mod strategies;
