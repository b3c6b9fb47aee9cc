//! Enhanced authentication (MQTT 5, 4.12): methods by name, each an exchange of bytes with a client.
//!
//! A worker asks the [`Methods`] by the name that CONNECT gives, keeps the [`Exchange`] with the connection and hands it what
//! the client answers. A method that has to ask somebody else brings its own state; none here does yet.

mod test_method;

use raftmq_mqtt::ReasonCode;

pub(crate) use test_method::TestMethod;

/// What a method says next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The client is sent this and has to answer.
    Continue(Vec<u8>),
    /// The client is authenticated, and is sent this.
    Success(Vec<u8>),
    /// It is not; the reason must be one of CONNACK and DISCONNECT.
    Refused(ReasonCode),
}

/// A way to authenticate clients.
pub(crate) trait Method: Send + Sync {
    /// The Authentication Method of CONNECT.
    fn name(&self) -> &str;

    /// Begins with a client. `random` are 16 unpredictable bytes.
    fn begin(&self, client_id: &str, random: [u8; 16]) -> Box<dyn Exchange>;
}

/// One client's authentication.
pub(crate) trait Exchange {
    /// Takes what the client sent, the first time with CONNECT or with AUTH 0x19; empty if nothing.
    fn step(&mut self, data: &[u8]) -> Step;
}

/// The methods of a node.
#[derive(Default)]
pub(crate) struct Methods(Vec<Box<dyn Method>>);

impl Methods {
    /// With one more; a name that is there already is not added.
    pub(crate) fn with(mut self, method: impl Method + 'static) -> Self {
        if self.find(method.name()).is_none() {
            self.0.push(Box::new(method));
        }
        self
    }

    /// The method of a name.
    pub(crate) fn find(&self, name: &str) -> Option<&dyn Method> {
        self.0.iter().find(|method| method.name() == name).map(|method| &**method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_name() {
        assert!(Methods::default().find("test").is_none());
        let methods = Methods::default().with(TestMethod).with(TestMethod);
        assert_eq!(methods.0.len(), 1);
        assert!(methods.find("test").is_some() && methods.find("Test").is_none());
    }
}
