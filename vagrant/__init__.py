"""The lab: machines of their own, by Vagrant or light ones by user-mode-linux and QEMU, and what provisions them."""
