//! What several conversions need: ids, enums, lists, with the name of the field at fault.

use mirrormesh_core::ids::{InvalidId, TopicId};
use mirrormesh_core::unit::Role;
use prost::Message;

use crate::error::ConvertError;
use crate::store;

/// Decodes a message; `what` names it in the error.
pub(super) fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, ConvertError> {
    M::decode(bytes)
        .map_err(|error| ConvertError::new(what, format!("{} bytes do not decode: {error}", bytes.len())))
}

/// A message field or oneof that must be there.
pub(super) fn required<T>(value: Option<T>, field: &str) -> Result<T, ConvertError> {
    value.ok_or_else(|| ConvertError::new(field, "is missing, or of a kind that this version does not know"))
}

/// A message field that must be there, converted.
pub(super) fn inner<T, U>(value: Option<T>, field: &str) -> Result<U, ConvertError>
where
    U: TryFrom<T, Error = ConvertError>,
{
    U::try_from(required(value, field)?).map_err(|fault| fault.within(field))
}

/// A message field that may be absent, converted.
pub(super) fn optional<T, U>(value: Option<T>, field: &str) -> Result<Option<U>, ConvertError>
where
    U: TryFrom<T, Error = ConvertError>,
{
    value.map(U::try_from).transpose().map_err(|fault| fault.within(field))
}

/// A list, converted; faults get the index of their element.
pub(super) fn each<T, U>(
    list: impl IntoIterator<Item = T>,
    field: &str,
    mut convert: impl FnMut(T) -> Result<U, ConvertError>,
) -> Result<Vec<U>, ConvertError> {
    list.into_iter()
        .enumerate()
        .map(|(index, item)| convert(item).map_err(|fault| fault.within(&format!("{field}[{index}]"))))
        .collect()
}

/// An id of any type.
pub(super) fn id<T>(text: impl AsRef<str>, field: &str) -> Result<T, ConvertError>
where
    T: for<'a> TryFrom<&'a str, Error = InvalidId>,
{
    T::try_from(text.as_ref()).map_err(|invalid| ConvertError::new(field, invalid))
}

/// A list of ids.
pub(super) fn ids<T>(list: Vec<String>, field: &str) -> Result<Vec<T>, ConvertError>
where
    T: for<'a> TryFrom<&'a str, Error = InvalidId>,
{
    each(list, field, |text| id(text, ""))
}

/// The texts of a list of ids.
pub(super) fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// A topic id: 16 bytes.
pub(super) fn topic_id(bytes: &[u8], field: &str) -> Result<TopicId, ConvertError> {
    <[u8; 16]>::try_from(bytes)
        .map(TopicId)
        .map_err(|_| ConvertError::new(field, format!("a topic id has 16 bytes, not {}", bytes.len())))
}

/// A producer epoch, 16 bits in Kafka.
pub(super) fn epoch(value: i32, field: &str) -> Result<i16, ConvertError> {
    i16::try_from(value).map_err(|_| ConvertError::new(field, format!("{value} is not a producer epoch")))
}

/// A partition number.
pub(super) fn partition(value: i32, field: &str) -> Result<i32, ConvertError> {
    if value < 0 {
        return Err(ConvertError::new(field, format!("{value} is not a partition number")));
    }
    Ok(value)
}

/// A flag of a oneof, which is only ever there when it is set.
pub(super) fn flag(value: bool, field: &str) -> Result<(), ConvertError> {
    if value { Ok(()) } else { Err(ConvertError::new(field, "must be true where it is present")) }
}

/// A role as it is stored.
pub(super) fn role(value: i32, field: &str) -> Result<Role, ConvertError> {
    match store::Role::try_from(value) {
        Ok(store::Role::Source) => Ok(Role::Source),
        Ok(store::Role::Checkpoint) => Ok(Role::Checkpoint),
        Ok(store::Role::Heartbeat) => Ok(Role::Heartbeat),
        Ok(store::Role::Unspecified) | Err(_) => {
            Err(ConvertError::new(field, format!("{value} is not a role that this version knows")))
        }
    }
}
