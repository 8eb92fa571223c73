//! Resource names (AIP-122).

use mirrormesh_core::ids::{FlowId, InvalidId, TopicName};

use crate::error::ConvertError;

/// The id in a resource name `{collection}/{id}`, e.g. `parse_name::<FlowId>("flows", &request.name, "name")`.
pub fn parse_name<T>(collection: &str, name: &str, field: &str) -> Result<T, ConvertError>
where
    T: for<'a> TryFrom<&'a str, Error = InvalidId>,
{
    let id = name.strip_prefix(collection).and_then(|rest| rest.strip_prefix('/'));
    match id {
        Some(id) => parse_id(id, field),
        None if name.is_empty() => {
            Err(ConvertError::new(field, format!("is empty: give a name like `{collection}/ID`")))
        }
        None => {
            let shown: String = name.chars().take(128).collect();
            Err(ConvertError::new(field, format!("{shown:?} is not a name like `{collection}/ID`")))
        }
    }
}

/// An id that a user chose, e.g. `parse_id::<FlowId>(&request.flow_id, "flow_id")`.
pub fn parse_id<T>(id: &str, field: &str) -> Result<T, ConvertError>
where
    T: for<'a> TryFrom<&'a str, Error = InvalidId>,
{
    T::try_from(id).map_err(|invalid| ConvertError::new(field, invalid))
}

/// `flows/{flow}/topics/{topic}`, with the source's name of the topic.
pub fn flow_topic_name(flow: &FlowId, topic: &TopicName) -> String {
    format!("flows/{flow}/topics/{topic}")
}

/// Flow and topic in a name `flows/{flow}/topics/{topic}`.
pub fn parse_flow_topic(name: &str, field: &str) -> Result<(FlowId, TopicName), ConvertError> {
    let parts = name.strip_prefix("flows/").and_then(|rest| rest.split_once("/topics/"));
    let Some((flow, topic)) = parts else {
        let shown: String = name.chars().take(128).collect();
        return Err(ConvertError::new(
            field,
            format!(
                "{shown:?} is not a name like `flows/FLOW/topics/TOPIC`, with the source's name of the topic"
            ),
        ));
    };
    Ok((parse_id(flow, field)?, parse_id(topic, field)?))
}
