# Which box a provider starts on which processor: pinned, so that the lab of next year is the lab of today.
require_relative "machines"

module Boxes
  DEBIAN = ["debian/bookworm64", "12.20260519.1"].freeze # Debian's own
  BENTO = ["bento/debian-12", "202510.26.0"].freeze
  CLOUD = ["cloud-image/debian-12", "20260909.2596.0"].freeze # has cloud-init, by which vagrant-qemu sets addresses

  TABLE = { # provider: { architecture: [box, version] }
    "virtualbox"     => { "amd64" => BENTO,  "arm64" => BENTO }, # arm64 needs VirtualBox 7.1.6 and Vagrant 2.4
    "vmware_desktop" => { "amd64" => BENTO,  "arm64" => BENTO },
    "parallels"      => { "amd64" => BENTO,  "arm64" => BENTO },
    "libvirt"        => { "amd64" => DEBIAN, "arm64" => CLOUD },
    "qemu"           => { "amd64" => CLOUD,  "arm64" => CLOUD },
  }.freeze

  # The same processor has several names: Linux says aarch64, macOS arm64, Windows x64.
  ARCHITECTURES = { "x86_64" => "amd64", "amd64" => "amd64", "x64" => "amd64", "aarch64" => "arm64", "arm64" => "arm64" }.freeze
  OWN = "miniecs-lab".freeze # what vagrant/box.sh makes

  module_function

  def pinned(provider, processor)
    architecture = ARCHITECTURES.fetch(processor.downcase) do
      Machines.refuse "no box is known for the processor #{processor}; try: LAB_BOX=NAME, with a Debian 12 box of your own"
    end
    TABLE.fetch(provider).fetch(architecture)
  end

  # LAB_BOX is the name of a box, or a file that vagrant/box.sh made.
  def choose(machine, provider, processor, chosen)
    if chosen.to_s.empty?
      machine.box, machine.box_version = pinned(provider, processor)
    elsif file?(chosen)
      machine.box = OWN
      machine.box_url = "file://#{File.expand_path(chosen)}"
    else
      machine.box = chosen
    end
  end

  # A machine is about to be started: its file must be there; and if its box has to be fetched and cannot be, Vagrant's
  # own error does not say what to try. So that is said after it.
  def check(machines, provider, processor, environment)
    chosen = environment["LAB_BOX"].to_s
    Machines.refuse "LAB_BOX=#{chosen} is no file; try: sudo vagrant/box.sh #{chosen}" if file?(chosen) && !File.file?(chosen)
    return unless chosen.empty?

    name, version = pinned(provider, processor)
    home = environment.fetch("VAGRANT_HOME") { File.join(Dir.home, ".vagrant.d") }
    place = File.join(home, "boxes", name.gsub("/", "-VAGRANTSLASH-"), version)
    at_exit do
      unless Dir.exist?(place) # not by `warn`, which Vagrant has silenced
        $stderr.puts "vagrant: #{machines.map(&:name).join(", ")}: the box #{name} #{version} is not here and could not be " \
                     "fetched; try: LAB_BOX=NAME, another one; or, of Debian packages: " \
                     "sudo vagrant/box.sh lab.box && LAB_BOX=lab.box vagrant up"
      end
    end
  end

  def file?(chosen)
    chosen.end_with?(".box")
  end
end
