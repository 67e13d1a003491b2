//! A request to stop, shared by everything that a command runs. Main type: [`Cancel`].

use tokio::sync::watch;

/// Hears whether the command is to stop.
#[derive(Clone, Debug)]
pub struct Cancel(watch::Receiver<bool>);

/// Asks the command to stop.
#[derive(Debug)]
pub struct Canceller(watch::Sender<bool>);

/// A request and those who hear it.
pub fn cancel() -> (Canceller, Cancel) {
    let (sender, receiver) = watch::channel(false);
    (Canceller(sender), Cancel(receiver))
}

impl Canceller {
    /// Asks to stop; asking again changes nothing.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Cancel {
    /// A request that never comes.
    pub fn never() -> Self {
        cancel().1
    }

    /// Whether it came.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it comes; for ever, when nobody is left who could ask.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_hears_it() {
        let (canceller, first) = cancel();
        let second = first.clone();
        assert!(!first.is_cancelled());
        canceller.cancel();
        second.cancelled().await;
        assert!(first.is_cancelled());
    }
}
