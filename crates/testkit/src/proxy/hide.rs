//! Hiding a Kafka API: the first answer on a connection says which ones the broker has (`ApiVersions`).
//!
//! The entry stays and gets a number that no API has: clients pass over those that they don't know.

use std::io::Result;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Set in the number of the API that is hidden.
const UNKNOWN: u8 = 0x40;
/// An entry: number, lowest version (0), highest version, and a byte that is 0: no tags, or the next entry begins.
const ENTRY_BYTES: usize = 7;
const VERSION_MAX: u8 = 20;

/// Reads the first answer, and takes the API out of it.
pub(super) async fn first_answer(from: &mut (impl AsyncRead + Unpin), api_key: i16) -> Result<Vec<u8>> {
    let length = from.read_i32().await?;
    let mut answer = length.to_be_bytes().to_vec();
    from.take(u64::try_from(length).unwrap_or(0)).read_to_end(&mut answer).await?;
    hide(&mut answer, api_key);
    Ok(answer)
}

fn hide(answer: &mut [u8], api_key: i16) {
    let [high, low] = api_key.to_be_bytes();
    let at = answer.windows(ENTRY_BYTES).position(
        |entry| matches!(entry, [h, l, 0, 0, 0, max, 0] if (*h, *l) == (high, low) && *max <= VERSION_MAX),
    );
    if let Some(first) = at.and_then(|at| answer.get_mut(at)) {
        *first |= UNKNOWN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_api_gets_another_number_in_the_first_answer() {
        // Correlation, no error, three entries: APIs 3, 22 and 23.
        let entries = [0, 3, 0, 0, 0, 13, 0, 0, 22, 0, 0, 0, 5, 0, 0, 23, 0, 2, 0, 4, 0];
        let answer = [&[0, 0, 0, 28, 0, 0, 0, 1, 0, 0, 4][..], &entries, &[9, 9]].concat();
        let first = first_answer(&mut &answer[..], 22).await.unwrap();
        assert_eq!(first.len(), 32, "no more than the answer");
        let changed: Vec<usize> = (0..first.len()).filter(|at| first[*at] != answer[*at]).collect();
        assert_eq!(changed, [18]);
        assert_eq!(first[18..20], [0x40, 22]);
        let other = first_answer(&mut &answer[..], 24).await.unwrap();
        assert_eq!(other, answer[..32]);
    }
}
